# MXFP8 of the gated activation.
graph "silu_mxfp8"
opset "" 20
input %gate: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %back: i64[4] = [0, 0, 8, 32]
const %flat: i64[3] = [0, 0, 256]

const %tiny: f32[] = 1.1754944e-38
const %ln2: f32[] = 0.6931472
const %emax: f32[] = 8.0
const %m127: f32[] = -127.0
const %p127: f32[] = 127.0
const %base: f32[] = 2.0
const %hi: f32[] = 448.0
const %lo: f32[] = -448.0
%y_g = sigmoid(%gate)
%y_s = mul(%gate, %y_g)
%y = mul(%y_s, %up)
%v = reshape(%y, %back)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%amf = clip(%am, %tiny)
%lg = log(%amf)
%l2 = div(%lg, %ln2)
%fl = floor(%l2)
%e = sub(%fl, %emax)
%ec = clip(%e, %m127, %p127)
%s = pow(%base, %ec)
%d = div(%v32, %s)
%dc = clip(%d, %lo, %hi)
%q0 = cast(%dc) {to=f8e4m3fn}
%q = reshape(%q0, %flat)
%es = squeeze(%e) {axes=[-1]}
%eb = add(%es, %p127)
%byte = cast(%eb) {to=u8}
output %q
output %byte
