import { Schema, Effect, Result } from "effect"
const S = Schema.Struct({ name: Schema.String, age: Schema.Number, tags: Schema.Array(Schema.Struct({a: Schema.Int})) })
const d = (t: string, o?: any) => { const r = Effect.runSync(Effect.result(Schema.decodeUnknownEffect(Schema.fromJsonString(S), o)(t))); console.log(Result.isFailure(r) ? r.failure.message : r.success, "\n---") }
d('{"name": 1, "age": "secret", "tags":[{"a":1.5},{}]}', { errors: "all" })
d('{"name": 1, "age": "secret", "tags":[{"a":1.5},{}]}')
d('```json\n{}', { errors: "all" })
d('', { errors: "all" })
const U = Schema.fromJsonString(Schema.Union([Schema.TaggedStruct("A",{x: Schema.String}), Schema.TaggedStruct("B",{y: Schema.Number})]))
const r = Effect.runSync(Effect.result(Schema.decodeUnknownEffect(U, {errors:"all"})('{"_tag":"A"}'))); console.log((r as any).failure.message)
