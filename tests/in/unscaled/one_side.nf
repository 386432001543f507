# Only the weight is quantised.
graph "one_side"
input %x: f32[batch, 64]
input %w: f8e4m3fn[6, 64]
input %ws: f32[1]
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
