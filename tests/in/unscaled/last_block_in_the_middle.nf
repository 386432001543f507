# Rows are cut off in front: the first block is the one that is not whole.
graph "last_block_in_the_middle"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1]
input %w: f8e4m3fn[6, 64]
input %ws: f32[2, 1]
const %a1: i64[3] = [2, 1, 1]
const %e1: i64[3] = [2, 4, 64]
const %r1: i64[2] = [8, 64]
const %from: i64[1] = [2]
const %to: i64[1] = [8]
const %axes: i64[1] = [0]
%w1 = reshape(%ws, %a1)
%w2 = expand(%w1, %e1)
%w3 = reshape(%w2, %r1)
%w4 = slice(%w3, %from, %to, %axes)
%qf = cast(%q) {to=f32}
%x = mul(%qf, %s)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %w4)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
