# Four bits, scales that are powers of two.
graph "mxfp4"
opset "" 20
input %x: bf16[batch, seq, 256]
const %w: bf16[256] = fill(1.25)
const %eps: f32[] = 1e-6
const %two: f32[] = 2.0
const %view: i64[3] = [-1, 8, 32]
const %back: i64[4] = [0, 0, 8, 32]
const %flat: i64[3] = [0, 0, 256]

const %tiny: f32[] = 1.1754944e-38
const %ln2: f32[] = 0.6931472
const %emax: f32[] = 2.0
const %m127: f32[] = -127.0
const %p127: f32[] = 127.0
const %base: f32[] = 2.0
const %hi: f32[] = 6.0
const %lo: f32[] = -6.0

const %t0: f32[] = 0.25
const %t1: f32[] = 0.75
const %t2: f32[] = 1.25
const %t3: f32[] = 1.75
const %t4: f32[] = 2.5
const %t5: f32[] = 3.5
const %t6: f32[] = 5.0
const %zero: f32[] = 0.0
const %three: u8[] = 3
const %four: u8[] = 4
const %b0: i64[1] = [0]
const %b1: i64[1] = [1]
const %end: i64[1] = [9223372036854775807]
const %ax: i64[1] = [-1]
const %st2: i64[1] = [2]
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
%amf = clip(%am, %tiny)
%lg = log(%amf)
%l2 = div(%lg, %ln2)
%fl = floor(%l2)
%e = sub(%fl, %emax)
%ec = clip(%e, %m127, %p127)
%s = pow(%base, %ec)
%d = div(%v32, %s)
%dc = clip(%d, %lo, %hi)
%fa = abs(%dc)
%c0b = greater(%fa, %t0)
%c0 = cast(%c0b) {to=u8}
%c1b = greater_or_equal(%fa, %t1)
%c1 = cast(%c1b) {to=u8}
%c2b = greater(%fa, %t2)
%c2 = cast(%c2b) {to=u8}
%c3b = greater_or_equal(%fa, %t3)
%c3 = cast(%c3b) {to=u8}
%c4b = greater(%fa, %t4)
%c4 = cast(%c4b) {to=u8}
%c5b = greater_or_equal(%fa, %t5)
%c5 = cast(%c5b) {to=u8}
%c6b = greater(%fa, %t6)
%c6 = cast(%c6b) {to=u8}
%a1 = add(%c0, %c1)
%a2 = add(%a1, %c2)
%a3 = add(%a2, %c3)
%a4 = add(%a3, %c4)
%a5 = add(%a4, %c5)
%a6 = add(%a5, %c6)
%ngb = less(%dc, %zero)
%ng = cast(%ngb) {to=u8}
%sg = shift_left(%ng, %three)
%code = bitwise_or(%a6, %sg)
%flatcode = reshape(%code, %flat)
%ev = slice(%flatcode, %b0, %end, %ax, %st2)
%od = slice(%flatcode, %b1, %end, %ax, %st2)
%oh = shift_left(%od, %four)
%q = bitwise_or(%ev, %oh)
%es = squeeze(%e) {axes=[-1]}
%eb = add(%es, %p127)
%byte = cast(%eb) {to=u8}
output %q
output %byte
