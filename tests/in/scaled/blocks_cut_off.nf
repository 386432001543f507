# Blocks of 1x64 and 4x64 that do not divide 160 columns and 6 rows: the last ones are cut off.
graph "blocks_cut_off"
input %q: f8e4m3fn[batch, 160]
input %s: f32[batch, 3]
input %w: f8e4m3fn[6, 160]
input %ws: f32[2, 3]
const %a1: i64[4] = [2, 1, 3, 1]
const %e1: i64[4] = [2, 4, 3, 64]
const %r1: i64[2] = [8, 192]
const %from: i64[2] = [0, 0]
const %to: i64[2] = [6, 160]
const %axes: i64[2] = [0, 1]
%x = dequantize_linear(%q, %s) {axis=1, block_size=64}
%w1 = reshape(%ws, %a1)
%w2 = expand(%w1, %e1)
%w3 = reshape(%w2, %r1)
%w4 = slice(%w3, %from, %to, %axes)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %w4)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
