# A quantiser reads the row without the zeros.
graph "quantised_as_it_is"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %by: i64[6] = [0, 0, 0, 0, 0, 64]
const %floor: f32[] = 4.3596542e-06
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%v32 = cast(%y) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1], keepdims=true}
%s0 = div(%am, %fmax)
%s = clip(%s0, %floor)
%d = div(%v32, %s)
%dc = clip(%d, %fmin, %fmax)
%q = cast(%dc) {to=f8e4m3fn}
%p = pad(%y, %by)
output %q
output %s
output %p
