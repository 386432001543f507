# A quotient by a scale is another number than the product with its inverse.
graph "divided"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[6, 64]
const %ws: f32[] = 3.0
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = div(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
