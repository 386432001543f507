# MLA's kv_a: a slice of a projection is normed and viewed as heads before its quantiser.
graph "view_before_quantiser"
opset "" 20
input %kv: bf16[batch, seq, 160]
const %w: bf16[128] = fill(0.75)
const %sizes: i64[2] = [128, 32]
const %inv: f32[1] = [103.1367]
const %one1: i64[1] = [1]
const %n128: i64[1] = [128]
const %i0: i64[1] = [0]
const %i1: i64[1] = [1]
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %one: f32[] = 1.0
const %floor: f32[] = 4.3596542e-06
const %fmax: f32[] = 448.0
const %fmin: f32[] = -448.0
%x, %rest = split(%kv, %sizes) {axis=-1}
%shape = shape(%kv)
%b = gather(%shape, %i0) {axis=0}
%t = gather(%shape, %i1) {axis=0}
%n0_x32 = cast(%x) {to=f32}
%n0_sq = pow(%n0_x32, %two)
%n0_ms = reduce_mean(%n0_sq) {axes=[-1]}
%n0_ve = add(%n0_ms, %eps)
%n0_rt = sqrt(%n0_ve)
%n0_r = reciprocal(%n0_rt)
%n0_n = mul(%n0_x32, %n0_r)
%n0_nc = cast(%n0_n) {to=bf16}
%n0 = mul(%w, %n0_nc)
%hs = concat(%b, %one1, %t, %n128) {axis=0}
%y = reshape(%n0, %hs)
%y32 = cast(%y) {to=f32}
%m = mul(%y32, %inv)
%mc = clip(%m, %fmin, %fmax)
%q = cast(%mc) {to=f8e4m3fn}
output %q
output %rest
