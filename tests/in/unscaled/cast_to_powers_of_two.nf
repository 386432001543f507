# Codes that are rounded on the way to their scales are others.
graph "cast_to_powers_of_two"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[6, 64]
input %ws: f32[1]
%qf0 = cast(%q) {to=f32}
%qi = cast(%qf0) {to=f8e8m0}
%qf = cast(%qi) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
