# Per-token FP8 of the gated activation.
graph "silu_token"
opset "" 20
input %gate: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %floor: f32[] = 4.3596542e-06
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%y_g = sigmoid(%gate)
%y_s = mul(%gate, %y_g)
%y = mul(%y_s, %up)
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
