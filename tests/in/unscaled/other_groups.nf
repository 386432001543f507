# Groups of 64 meet groups of 32.
graph "other_groups"
input %q2: f8e4m3fn[batch, 128]
input %s2: f32[batch, 2]
input %w2: f8e4m3fn[6, 128]
input %ws2: f32[6, 4]
%x = dequantize_linear(%q2, %s2) {axis=1, block_size=64}
%wd = dequantize_linear(%w2, %ws2) {axis=1, block_size=32}
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
