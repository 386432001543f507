# Powers of two as scales, of the gated activation.
graph "silu_ue8m0"
opset "" 20
input %gate: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %back: i64[4] = [0, 0, 8, 32]
const %flat: i64[3] = [0, 0, 256]

const %c448: f32[] = 448.0
const %fl: f32[] = 1e-10
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%y_g = sigmoid(%gate)
%y_s = mul(%gate, %y_g)
%y = mul(%y_s, %up)
%v = reshape(%y, %back)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%s0 = div(%am, %c448)
%s1 = max(%s0, %fl)
%l = log2(%s1)
%e = ceil(%l)
%s = exp2(%e)
%d = div(%v32, %s)
%dc = clip(%d, %lo, %hi)
%q0 = cast(%dc) {to=f8e4m3fn}
%q = reshape(%q0, %flat)
%sq = squeeze(%s) {axes=[-1]}
output %q
output %sq
