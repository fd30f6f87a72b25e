import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Bell from "../../packages/core/src/internal/bell.ts"

describe("Bell", () => {
  it.effect("wakes who listens, and is silent again", () =>
    Effect.gen(function* () {
      const bell = Bell.make()
      const listener = yield* Effect.forkChild(bell.heard(1000), { startImmediately: true })
      bell.ring()
      yield* Fiber.join(listener)

      const again = yield* Effect.forkChild(bell.heard(1000), { startImmediately: true })
      yield* TestClock.adjust("999 millis")
      const before = again.pollUnsafe()
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(again)

      assert.isUndefined(before)
    })
  )

  it.effect("is heard by who listens later, once", () =>
    Effect.gen(function* () {
      const bell = Bell.make()
      bell.ring()
      bell.ring()
      yield* bell.heard(1000)
      const now = yield* Clock.currentTimeMillis

      const later = yield* Effect.forkChild(bell.heard(1000), { startImmediately: true })
      yield* TestClock.adjust("1 seconds")
      yield* Fiber.join(later)

      assert.strictEqual(now, 0)
    })
  )

  it.effect("lets who rings go on first", () =>
    Effect.gen(function* () {
      const bell = Bell.make()
      const said: Array<string> = []
      const listener = yield* Effect.forkChild(
        Effect.tap(bell.heard(1000), () => Effect.sync(() => void said.push("heard"))),
        { startImmediately: true }
      )
      bell.ring()
      said.push("rung")
      yield* Fiber.join(listener)

      assert.deepStrictEqual(said, ["rung", "heard"])
    })
  )

  it.effect("keeps what is rung for a listener who left", () =>
    Effect.gen(function* () {
      const bell = Bell.make()
      const gone = yield* Effect.forkChild(bell.heard(1000), { startImmediately: true })
      yield* Fiber.interrupt(gone)
      bell.ring()
      yield* bell.heard(1000)

      assert.strictEqual(yield* Clock.currentTimeMillis, 0)
    })
  )
})
