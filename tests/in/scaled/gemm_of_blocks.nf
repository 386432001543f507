# Scales of blocks and a bias of 16 bits, which is added in f32 before the one rounding of the result.
graph "gemm_of_blocks"
input %q: f8e4m3fn[batch, 256]
input %s: f32[batch, 2]
input %w: f8e4m3fn[6, 256]
input %ws: f32[6, 2]
input %bias: f16[6]
%x32 = dequantize_linear(%q, %s) {axis=1, block_size=128}
%x = cast(%x32) {to=f16}
%w32 = dequantize_linear(%w, %ws) {axis=1, block_size=128}
%wd = cast(%w32) {to=f16}
%y = gemm(%x, %wd, %bias) {alpha=1.0, beta=1.0, trans_a=false, trans_b=true}
output %y as "y"
