# The product with the weight is the last rounding; magnitudes go through bf16 once more, which rounds nothing.
graph "product_of_16_bits"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
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
%absc = cast(%abs) {to=bf16}
%am = reduce_max(%absc) {axes=[-1], keepdims=false}
%amu = unsqueeze(%am) {axes=[-1]}
%amc = cast(%amu) {to=f32}
%s0 = div(%amc, %fmax)
%s1 = clip(%s0, %floor)
%rs = reciprocal(%s1)
%d = mul(%v32, %rs)
%dc = clip(%d, %fmin, %fmax)
%q0 = cast(%dc) {to=f8e4m3fn}
output %q0 as "q"
output %s1 as "s"
