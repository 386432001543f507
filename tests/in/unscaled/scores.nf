# Two activations: no side is a matrix of fixed sizes.
graph "scores"
input %q: f8e4m3fn[batch, seq, 64]
input %s: f32[batch, seq, 1]
input %k: f8e4m3fn[batch, 64, seq]
input %ks: f32[]
%x = dequantize_linear(%q, %s) {axis=-1, block_size=64}
%kd = dequantize_linear(%k, %ks)
%y = matmul(%x, %kd)
output %y as "y"
