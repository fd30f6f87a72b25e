import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, Path, Stream } from "effect"
import { ChildProcess } from "effect/process"

const root = new URL("../..", import.meta.url)

const output = Effect.fnUntraced(function* (script: string, ...args: ReadonlyArray<string>) {
  const path = yield* Path.Path
  const cwd = yield* path.fromFileUrl(root)
  const handle = yield* ChildProcess.make(process.execPath, ["-C", "@llm-resilience/source", script, ...args], { cwd })
  const text = yield* Stream.mkString(Stream.decodeText(handle.stdout))
  return { text, code: yield* handle.exitCode }
}, Effect.scoped)

it.live("the same seed leaves the same trace in two processes", () =>
  Effect.gen(function* () {
    const first = yield* output("test/simulation/simulate.ts", "--seed", "11")
    const second = yield* output("test/simulation/simulate.ts", "--seed", "11")

    assert.strictEqual(Number(first.code), 0)
    assert.isAbove(first.text.split("\n").length, 100)
    assert.strictEqual(first.text, second.text)
  }).pipe(Effect.provide(NodeServices.layer))
)

it.live("a planted bug is found", () =>
  Effect.gen(function* () {
    const { code, text } = yield* output("test/simulation/mutants.ts", "--only", "one probe too many")

    assert.include(text, "probes within their limit")
    assert.strictEqual(Number(code), 0)
  }).pipe(Effect.provide(NodeServices.layer))
)
