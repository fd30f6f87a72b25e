import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Survival from "../../packages/benchmarks/src/Survival.ts"
import * as Systems from "../../packages/benchmarks/src/Systems.ts"

const scenario = (name: string): Survival.Scenario => {
  const found = Survival.scenarios.find((scenario) => scenario.name === name)
  if (found === undefined) throw new Error(`no scenario is called ${name}`)
  return found
}

const careless: Systems.System = {
  name: "careless",
  module: new URL("../support/carelessClient.ts", import.meta.url),
  packages: []
}

const ours = Systems.systems.filter(({ name }) => name === "llm-resilience")

const verdicts = (systems: ReadonlyArray<Systems.System>, name: string, stream: boolean) =>
  Effect.scoped(
    Effect.gen(function* () {
      const running = yield* Effect.forEach(systems, (system) => Systems.start(system))
      return yield* Effect.forEach(running, (system) => Survival.cell(system, scenario(name), stream))
    })
  )

it.live("tells half an answer from an answer", () =>
  Effect.gen(function* () {
    const [our, other] = yield* verdicts([...ours, careless], "healthy", false)

    assert.strictEqual(our?.verdict, "answered")
    assert.strictEqual(other?.verdict, "wrong")
  })
)

it.live("counts what was asked of both upstreams", () =>
  Effect.gen(function* () {
    const [our] = yield* verdicts(ours, "cut", true)

    assert.deepInclude(our, { verdict: "answered", primaryCalls: 1, backupCalls: 1 })
  })
)

it.live("notices a request that goes on after its caller has left", () =>
  Effect.gen(function* () {
    const [our, other] = yield* verdicts([...ours, careless], "caller leaves", false)

    assert.strictEqual(our?.verdict, "left")
    assert.strictEqual(other?.verdict, "leaked")
  })
)

it.live("reports a system that cannot be started", () =>
  Effect.gen(function* () {
    const missing = { ...careless, module: new URL("./missing.ts", import.meta.url) }

    const error = yield* Effect.flip(Effect.scoped(Systems.start(missing)))

    assert.strictEqual(error._tag, "Crashed")
    assert.include(error.message, "missing.ts")
  })
)
