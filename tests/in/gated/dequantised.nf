# The gated activation with a fake quantiser behind it.
graph "dequantised"
opset "" 23
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
%am = reduce_max(%abs) {axes=[-1], keepdims=true}
%s0 = div(%am, %fmax)
%s = clip(%s0, %floor)
%d = div(%v32, %s)
%dc = clip(%d, %fmin, %fmax)
%q = cast(%dc) {to=f8e4m3fn}
%f = dequantize_linear(%q, %s) {axis=-1, block_size=256, to=bf16}
output %f
