# Two quantisers that are one: the largest of each value and its negative, and of the two maxima.
graph "quant_signs_for_magnitude"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %fl: f32[] = 1e-5
const %top: f32[] = 448.0
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
%m = neg(%y32)
%b = max(%y32, %m)
%am = reduce_max(%b) {axes=[-1]}
%af = max(%am, %fl)
%s = div(%af, %top)
%d = div(%y32, %s)
%q = cast(%d) {to=f8e4m3fn}
%m2 = neg(%y32)
%hi = reduce_max(%y32) {axes=[-1]}
%lo = reduce_max(%m2) {axes=[-1]}
%am2 = max(%lo, %hi)
%af2 = max(%am2, %fl)
%s2 = div(%af2, %top)
%d2 = div(%y32, %s2)
%q2 = cast(%d2) {to=f8e4m3fn}
output %q
output %s
output %q2
output %s2
