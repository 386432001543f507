# All leading sizes are 1, as in a decode step of fixed size.
graph "rows_of_one"
opset "" 20
input %x: bf16[1, 1, 256]
const %w: bf16[1, 1, 256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %c448: f32[] = 448.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%q_32 = cast(%y) {to=f32}
%q_ab = abs(%q_32)
%q_am = reduce_max(%q_ab) {axes=[-1]}
%q_s = div(%q_am, %c448)
%q_d = div(%q_32, %q_s)
%q = cast(%q_d) {to=f8e4m3fn}
output %q
output %q_s
