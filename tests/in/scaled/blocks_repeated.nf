# Scales of 2 by 128 blocks of the weight, repeated along both axes by expansions.
graph "blocks_repeated"
input %q: f8e4m3fn[batch, 256]
input %s: f32[batch, 2]
input %w: f8e4m3fn[6, 256]
input %ws: f32[3, 2]
const %a1: i64[3] = [3, 1, 2]
const %e1: i64[3] = [3, 2, 2]
const %r1: i64[3] = [6, 2, 1]
const %e2: i64[3] = [6, 2, 128]
const %r2: i64[2] = [6, 256]
%x = dequantize_linear(%q, %s) {axis=1, block_size=128}
%w1 = reshape(%ws, %a1)
%w2 = expand(%w1, %e1)
%w3 = reshape(%w2, %r1)
%w4 = expand(%w3, %e2)
%w5 = reshape(%w4, %r2)
%wf = cast(%w) {to=f32}
%wd = mul(%w5, %wf)
%wt = transpose(%wd)
%y = matmul(%x, %wt)
output %y as "y"
