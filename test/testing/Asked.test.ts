import { assert, describe, it } from "@effect/vitest"
import { LlmRequest, LlmResilience } from "@llm-resilience/core"
import { Asked, ScriptedProvider } from "@llm-resilience/testing"
import { Cause, Effect, Exit, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"

const request = LlmRequest.make({ prompt: "Count to nine" })

const said = (exit: Exit.Exit<unknown, unknown>): string => (Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "")

describe("Asked", () => {
  it.effect("tells a fallback: asked, given up, and the other one asked to go on", () =>
    Effect.gen(function* () {
      const primary = yield* ScriptedProvider.make({
        id: "primary",
        script: [
          ScriptedProvider.tokens("one two three four five six seven", {
            every: "1 second",
            broken: { after: 6, by: ScriptedProvider.hang }
          })
        ]
      })
      const backup = yield* ScriptedProvider.make({
        id: "backup",
        capabilities: { prefill: true },
        script: [ScriptedProvider.tokens(" seven eight nine")]
      })
      const { stream } = yield* LlmResilience.make({ steps: [{ provider: primary }, { provider: backup }] })
      const reading = yield* Effect.forkChild(Stream.runDrain(stream(request)))
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(reading)

      assert.deepStrictEqual(yield* Asked.story(primary), ["asked for a stream, interrupted after 20 s"])
      assert.deepStrictEqual(yield* Asked.story(backup), [
        `asked for a stream to go on from "one two three four five six", answered at once`
      ])
      yield* Asked.expect(primary, [{ method: "stream", outcome: "interrupted", took: "20 seconds" }])
      yield* Asked.expect(backup, [{ prefill: "one two three four five six", says: "nine", outcome: "answered" }])
    }).pipe(Effect.scoped)
  )

  it.effect("says what is different, with the whole story", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedProvider.make({
        id: "model",
        script: [ScriptedProvider.fail("ServerError"), ScriptedProvider.answer("ok")]
      })
      yield* Effect.ignore(model.generate(request))
      yield* TestClock.adjust("1500 millis")
      yield* model.generate(request)

      yield* Asked.expect(model, [{}, { after: "1500 millis" }])
      const wrong = said(
        yield* Effect.exit(
          Asked.expect(model, [{ outcome: "answered", says: "ten" }, { after: "2 seconds", prefill: "one" }, {}])
        )
      )
      for (const line of [
        "model was not asked as expected",
        "3 calls expected, two calls made",
        "call 1: outcome should be answered, and is failed",
        `call 1: the user should say "ten", and says "Count to nine"`,
        "call 2: after (ms) should be 2000, and is 1500",
        "call 2: prefill should be one, and is undefined",
        "1.5 s later: asked, answered at once"
      ]) {
        assert.include(wrong, line)
      }
    })
  )

  it.effect("an empty list means that nobody asked", () =>
    Effect.gen(function* () {
      const model = yield* ScriptedProvider.make({ script: [ScriptedProvider.answer("ok")] })

      yield* Asked.expect(model, [])
      yield* model.generate(request)
      assert.include(said(yield* Effect.exit(Asked.expect(model, []))), "no call expected, one call made")
    })
  )
})
