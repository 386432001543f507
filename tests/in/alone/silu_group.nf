# 1x128 FP8 of the gated activation through views: scales and values are viewed back to its shape.
graph "silu_group"
opset "" 20
input %gate: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %floor: f32[] = 4.3596542e-06
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
const %view: i64[3] = [-1, 2, 128]
const %flat: i64[2] = [-1, 256]
const %n256: i64[1] = [256]
const %n2: i64[1] = [2]
const %i0: i64[1] = [0]
const %i1: i64[1] = [1]
%shape = shape(%up)
%b = gather(%shape, %i0) {axis=0}
%t = gather(%shape, %i1) {axis=0}
%y_g = sigmoid(%gate)
%y_s = mul(%gate, %y_g)
%y = mul(%y_s, %up)
%v = reshape(%y, %view)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%absc = cast(%abs) {to=bf16}
%am = reduce_max(%absc) {axes=[-1]}
%amc = cast(%am) {to=f32}
%s0 = div(%amc, %fmax)
%s1 = clip(%s0, %floor)
%d = div(%v32, %s1)
%dc = clip(%d, %fmin, %fmax)
%q0 = cast(%dc) {to=f8e4m3fn}
%q1 = reshape(%q0, %flat)
%qs = concat(%b, %t, %n256) {axis=0}
%q = reshape(%q1, %qs)
%s2 = squeeze(%s1) {axes=[-1]}
%ss = concat(%b, %t, %n2) {axis=0}
%s = reshape(%s2, %ss)
output %q
output %s
