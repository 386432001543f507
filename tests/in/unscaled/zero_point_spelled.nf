# The same, with the zero point subtracted by itself.
graph "zero_point_spelled"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: i8[6, 64]
input %ws: f32[]
const %z: i32[] = 3
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wi = cast(%w) {to=i32}
%wz = sub(%wi, %z)
%wf = cast(%wz) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
