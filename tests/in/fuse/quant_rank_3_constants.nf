# A scale and a floor that say axes of size 1 in front.
graph "quant_rank_3_constants"
opset "" 20
input %x: bf16[batch, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %fl: f32[1, 1, 1] = [1e-5]
const %top: f32[] = 448.0
const %given: f32[1, 1, 1] = [0.03125]
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%y32 = cast(%y) {to=f32}
%ab = abs(%y32)
%am = reduce_max(%ab) {axes=[-1]}
%amf = max(%am, %fl)
%s = div(%amf, %top)
%d = div(%y32, %s)
%q = cast(%d) {to=f8e4m3fn}
%e = div(%y32, %given)
%p = cast(%e) {to=f8e4m3fn}
output %q
output %s
output %p
