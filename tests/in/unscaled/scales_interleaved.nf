# Every other column of a row has the same scale: no neighbours share one.
graph "scales_interleaved"
input %q: f8e4m3fn[batch, 64]
input %s: f32[batch, 1, 2]
input %w: f8e4m3fn[6, 64]
input %ws: f32[1]
const %cut: i64[3] = [0, 32, 2]
const %whole: i64[2] = [0, 64]
%qf = cast(%q) {to=f32}
%qc = reshape(%qf, %cut)
%xc = mul(%qc, %s)
%x = reshape(%xc, %whole)
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wt = transpose(%wd) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
