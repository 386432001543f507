# A bias that is added behind the product is added behind it still, and rounded as before.
graph "bias_behind"
input %q: f8e4m3fn[batch, seq, 64]
input %s: f32[batch, seq, 1]
input %w: f8e4m3fn[6, 64]
input %ws: f32[6, 1]
input %bias: f32[6]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%p = matmul(%x, %wt)
%b = add(%p, %bias)
%y = cast(%b) {to=bf16}
output %y as "y"
