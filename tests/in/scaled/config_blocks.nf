# A layer as a config quantises it: 1x128 against 128x128, the last block of rows cut off, the product in f32.
graph "config_blocks"
input %q: f8e4m3fn[batch, seq, 256]
input %s: f32[batch, seq, 2]
input %w: f8e4m3fn[6, 256]
input %ws: f32[2, 2]
const %rows: i64[6] = [0, 0, 0, 0, 1, 1]
%x = dequantize_linear(%q, %s) {axis=-1, block_size=128}
%wr = gather(%ws, %rows)
%wd = dequantize_linear(%w, %wr) {axis=1, block_size=128}
%wt = transpose(%wd) {perm=[1, 0]}
%p = matmul(%x, %wt)
%y = cast(%p) {to=bf16}
output %y as "y"
