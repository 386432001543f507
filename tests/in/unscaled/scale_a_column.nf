# Columns of the left side have scales of their own: no sum can be scaled by them.
graph "scale_a_column"
input %q: f8e4m3fn[batch, 64]
input %s: f32[64]
input %w: f8e4m3fn[6, 64]
input %ws: f32[1]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
