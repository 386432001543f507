# A factor of its own for each element is no scale of a group.
graph "factor_of_elements"
input %q: f8e4m3fn[batch, 4096]
input %g: f32[batch, 4096]
input %w: f8e4m3fn[6, 4096]
input %ws: f32[1]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %g)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
