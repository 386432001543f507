# A linear layer as exporters write one of two axes: the weight as it is stored, and a bias in 16 bits.
graph "gemm"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[6, 64]
input %ws: f32[6, 1]
input %bias: bf16[6]
%qf = cast(%q) {to=f32}
%x32 = mul(%qf, %s)
%x = cast(%x32) {to=bf16}
%wf = cast(%w) {to=f32}
%w32 = mul(%wf, %ws)
%wd = cast(%w32) {to=bf16}
%y = gemm(%x, %wd, %bias) {alpha=1.0, beta=1.0, trans_a=false, trans_b=true}
output %y as "y"
