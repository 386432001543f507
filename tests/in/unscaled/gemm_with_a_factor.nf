# Half a product is no product of these codes and scales.
graph "gemm_with_a_factor"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[6, 64]
input %ws: f32[1]
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%y = gemm(%x, %wd) {alpha=0.5, beta=1.0, trans_a=false, trans_b=true}
output %y as "y"
