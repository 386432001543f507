# Tokens are flat at the scales, and are not behind them.
graph "shape_of_another"
input %q: f8e4m3fn[batch, seq, 2, 128]
input %sc: f32[batch*seq, 1]
input %w: f8e4m3fn[6, 256]
input %ws: f32[1]
input %like: f32[batch, seq, 1]
const %flat: i64[2] = [-1, 256]
const %last: i64[1] = [256]
const %z: i64[1] = [0]
const %two: i64[1] = [2]
%qf = cast(%q) {to=f32}
%qr = reshape(%qf, %flat)
%x0 = mul(%qr, %sc)
%shp = shape(%like)
%head = slice(%shp, %z, %two)
%full = concat(%head, %last) {axis=0}
%x = reshape(%x0, %full)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
