# NVFP4 of the gated activation, under a given global scale.
graph "silu_nvfp4"
opset "" 20
input %gate: bf16[batch, seq, 256]
input %up: bf16[batch, seq, 256]
const %back: i64[4] = [0, 0, 16, 16]
const %flat: i64[3] = [0, 0, 256]

input %g: f32[]
const %sixth: f32[] = 0.16666667
const %hi8: f32[] = 448.0
const %lo8: f32[] = -448.0
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
%y_g = sigmoid(%gate)
%y_s = mul(%gate, %y_g)
%y = mul(%y_s, %up)
%v = reshape(%y, %back)
%v32 = cast(%v) {to=f32}
%abs = abs(%v32)
%am = reduce_max(%abs) {axes=[-1]}
%a6th = mul(%am, %sixth)
%sg0 = mul(%g, %a6th)
%sc = clip(%sg0, %lo8, %hi8)
%s8 = cast(%sc) {to=f8e4m3fn}
%sf = cast(%s8) {to=f32}
%isz = equal(%sf, %zero)
%inv0 = div(%g, %sf)
%inv = where(%isz, %zero, %inv0)
%d = mul(%v32, %inv)
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
%sq = squeeze(%s8) {axes=[-1]}
output %q
output %sq
