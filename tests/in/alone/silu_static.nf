# Static FP8 of the gated activation, before the down projection.
graph "silu_static"
opset "" 20
input %gate: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %inv: f32[1] = [103.1367]
%y_g = sigmoid(%gate)
%y_s = mul(%gate, %y_g)
%y = mul(%y_s, %up)
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
