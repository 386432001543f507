# Codes with a zero point are no numbers times a scale.
graph "zero_point"
input %q: i8[batch, 64]
input %s: f32[]
const %z: i8[] = 3
input %w: i8[6, 64]
input %ws: f32[]
%x = dequantize_linear(%q, %s, %z)
%wd = dequantize_linear(%w, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
