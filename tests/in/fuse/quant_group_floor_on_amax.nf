# The floor is on amax, the scale's reciprocal multiplies, the cast alone saturates.
graph "quant_group_floor_on_amax"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
const %floor: f32[] = 4.3596542e-06
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %view: i64[3] = [-1, 2, 128]
const %flat: i64[2] = [-1, 256]
const %m1: i64[1] = [-1]
const %n256: i64[1] = [256]
const %n2: i64[1] = [2]
const %i0: i64[1] = [0]
const %i1: i64[1] = [1]
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%v = reshape(%y, %view)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%amf = clip(%am, %floor)
%s0 = div(%amf, %fmax)
%rs = reciprocal(%s0)
%d = mul(%v32, %rs)
%q0 = cast(%d) {to=f8e4m3fn}
output %q0 as "q"
output %s0 as "s"
