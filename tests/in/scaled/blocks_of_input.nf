# The weight is stored [K, N] with a scale for 128 inputs of each output.
graph "blocks_of_input"
input %q: f8e4m3fn[batch, 256]
input %s: f32[batch, 2]
input %w: f8e4m3fn[256, 6]
input %ws: f32[2, 6]
%x = dequantize_linear(%q, %s) {axis=1, block_size=128}
%wd = dequantize_linear(%w, %ws) {axis=0, block_size=128}
%y = matmul(%x, %wd)
output %y as "y"
