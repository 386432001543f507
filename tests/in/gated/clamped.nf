# GPT-OSS: gate and factor interleaved in a row, both clamped, alpha in f32 and rounded, one added; as torch.export has it.
graph "clamped"
opset "" 20
input %gate_up: bf16[batch, seq, 128]
const %zero: i64[1] = [0]
const %one_at: i64[1] = [1]
const %end: i64[1] = [9223372036854775807]
const %last: i64[1] = [2]
const %step: i64[1] = [2]
const %limit: bf16[] = 7.0
const %minus: bf16[] = -7.0
const %alpha: f32[] = 1.702
const %one: bf16[] = 1.0
const %floor: f32[] = 1e-10
const %top: f32[] = 448.0
const %low: f32[] = -448.0
%even = slice(%gate_up, %zero, %end, %last, %step)
%odd = slice(%gate_up, %one_at, %end, %last, %step)
%gate = clip(%even, _, %limit)
%up = clip(%odd, %minus, %limit)
%wide = cast(%gate) {to=f32}
%scaled = mul(%wide, %alpha)
%narrow = cast(%scaled) {to=bf16}
%sigmoid = sigmoid(%narrow)
%glu = mul(%gate, %sigmoid)
%more = add(%up, %one)
%y = mul(%more, %glu)
%v = cast(%y) {to=f32}
%a = abs(%v)
%m = reduce_max(%a) {axes=[-1]}
%m1 = max(%m, %floor)
%s = div(%m1, %top)
%d = div(%v, %s)
%c = clip(%d, %low, %top)
%q = cast(%c) {to=f8e4m3fn}
output %q
output %s
