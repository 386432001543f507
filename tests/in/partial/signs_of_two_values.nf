# The larger of a value and the negative of another one.
graph "signs_of_two_values"
opset "" 20
input %x: bf16[batch, seq, 256]
input %z: f32[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
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
%m = neg(%z)
%b = max(%y32, %m)
%am = reduce_max(%b) {axes=[-1]}
%s = div(%am, %top)
%d = div(%y32, %s)
%q = cast(%d) {to=f8e4m3fn}
output %q
output %s
