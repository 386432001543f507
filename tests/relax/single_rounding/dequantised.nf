# Results are numbers in bf16 again, made of codes and scales in f32: their rounding stays.
graph "dequantised"
opset "" 21
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %floor: f32[] = 4.3596542e-06
const %fmax: f32[] = 448.0
const %groups: i64[4] = [0, 0, 2, 128]
const %flat: i64[3] = [0, 0, 256]
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%v = reshape(%y, %groups)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1], keepdims=true}
%s0 = div(%am, %fmax)
%s = clip(%s0, %floor)
%d = div(%v32, %s)
%qg = cast(%d) {to=f8e4m3fn}
%qf = cast(%qg) {to=f32}
%fs = mul(%s, %qf)
%fb = cast(%fs) {to=bf16}
%f = reshape(%fb, %flat)
%o = relu(%f)
output %o
