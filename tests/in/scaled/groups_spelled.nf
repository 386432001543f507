# Codes are cast, cut into groups and multiplied; the weight has one scale; both are rounded to bf16 before they meet.
graph "groups_spelled"
input %q: f8e4m3fn[batch, seq, 256]
input %s: f32[batch, seq, 2]
input %w: f8e4m3fn[6, 256]
const %ws: f32[1] = [0.037]
const %cut: i64[4] = [0, 0, 2, 128]
const %cuts: i64[4] = [0, 0, 2, 1]
const %whole: i64[3] = [0, 0, 256]
%qf = cast(%q) {to=f32}
%qg = reshape(%qf, %cut)
%sg = reshape(%s, %cuts)
%xg = mul(%qg, %sg)
%x32 = reshape(%xg, %whole)
%x = cast(%x32) {to=bf16}
%wf = cast(%w) {to=f32}
%wd = mul(%wf, %ws)
%wb = cast(%wd) {to=bf16}
%wt = transpose(%wb) {perm=[1, 0]}
%y = matmul(%x, %wt)
output %y as "y"
