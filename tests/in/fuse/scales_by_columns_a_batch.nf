# The groups go before the tokens of each batch, which is no order of scales that an op writes: rows.
graph "scales_by_columns_a_batch"
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
input %res: bf16[batch, seq, 256]
%shape = shape(%x)
%b = gather(%shape, %i0) {axis=0}
%t = gather(%shape, %i1) {axis=0}
%h = add(%x, %res)
%y_x32 = cast(%h) {to=f32}
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
%sc = transpose(%s) {perm=[0, 2, 1]}
output %q
output %sc
output %h
