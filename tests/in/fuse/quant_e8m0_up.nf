# Scales that are handed out as powers of two by ONNX's cast: rounded up, and bounded.
graph "quant_e8m0_up"
opset "" 24
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %view: i64[3] = [-1, 8, 32]
const %back: i64[4] = [0, 0, 8, 32]
const %flat: i64[3] = [0, 0, 256]

const %c448: f32[] = 448.0
const %fl: f32[] = 1e-10
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%y_x32 = cast(%x) {to=f32}
%y_sq = pow(%y_x32, %two)
%y_ms = reduce_mean(%y_sq) {axes=[-1]}
%y_ve = add(%y_ms, %eps)
%y_rt = sqrt(%y_ve)
%y_r = reciprocal(%y_rt)
%y_n = mul(%y_x32, %y_r)
%y_nc = cast(%y_n) {to=bf16}
%y = mul(%w, %y_nc)
%v = reshape(%y, %back)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%s0 = div(%am, %c448)
%s1 = max(%s0, %fl)
%d = div(%v32, %s1)
%dc = clip(%d, %lo, %hi)
%q0 = cast(%dc) {to=f8e4m3fn}
%q = reshape(%q0, %flat)
%sn = cast(%s1) {to=f8e8m0}
%ss = squeeze(%sn) {axes=[-1]}
output %q
output %ss
