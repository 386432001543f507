graph "w"
file "w.data" size 4096 hash "0123"
weight %w: f32[4] = "w.data"[16..+16]
input %x: f32[a, 4] default f32[1, 4] = [nan, -inf, 0x7fc00001, 1e-45]
const %b: bool[2] = [true, false]
const %n: i64[] = -9223372036854775808
const %z: bf16[64] = base64 "AAAA"
%y: f32[a, 4] = mul(%x, %w) @"a name" from {replaced=[a, b], rules=[norm]}
%q, %s = "com.acme"."Magic"(%y, _) {outputs=2}
output %s as "result": ?[2*a + 1]
