# The weight as the product reads it, a bias with an axis in front, in f32.
graph "gemm_as_multiplied"
input %q: f8e4m3fn[batch, 64]
input %s: f32[1]
input %w: f8e4m3fn[64, 6]
input %ws: f32[6]
input %bias: f32[1, 6]
%x = dequantize_linear(%q, %s) {axis=0}
%wd = dequantize_linear(%w, %ws) {axis=1}
%y = gemm(%x, %wd, %bias) {alpha=1.0, beta=1.0, trans_a=false, trans_b=false}
output %y as "y"
