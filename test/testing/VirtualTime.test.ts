import { assert, describe, it } from "@effect/vitest"
import { VirtualTime } from "@llm-resilience/testing"
import { Clock, Deferred, Effect, Exit, Fiber, Random } from "effect"

const ended = <A, E>(ending: VirtualTime.Ending<A, E>): Exit.Exit<A, E> => {
  if (ending._tag !== "Ended") return assert.fail(`it ended in a ${ending._tag}`)
  return ending.exit
}

describe("VirtualTime", () => {
  it("lets time pass when nobody can go on", () => {
    const time = VirtualTime.make()
    const ending = time.run(
      Effect.gen(function* () {
        const late = yield* Effect.forkChild(Effect.as(Effect.sleep("2 hours"), "late"))
        yield* Effect.sleep("1 hour")
        const between = time.now()
        return [between, yield* Fiber.join(late), time.now()]
      })
    )

    assert.deepStrictEqual(ended(ending), Exit.succeed([3_600_000, "late", 7_200_000]))
  })

  it("moves the wall clock without moving time", () => {
    const time = VirtualTime.make({ wall: 1000 })
    time.at(500, () => time.stepWall(-400))
    const ending = time.run(Effect.andThen(Effect.sleep(1000), Clock.currentTimeMillis))

    assert.deepStrictEqual(ended(ending), Exit.succeed(1600))
    assert.strictEqual(time.now(), 1000)
  })

  it("forgets the timer of a sleeper who is interrupted", () => {
    const time = VirtualTime.make()
    const ending = time.run(
      Effect.gen(function* () {
        const sleeper = yield* Effect.forkChild(Effect.sleep("1 day"), { startImmediately: true })
        yield* Effect.sleep("1 second")
        yield* Fiber.interrupt(sleeper)
        yield* Effect.never
      })
    )

    assert.deepStrictEqual([ending._tag, ending.at], ["Deadlock", 1000])
  })

  it("tells a deadlock and a livelock from an end", () => {
    const waiting = VirtualTime.make().run(Effect.flatMap(Deferred.make<void>(), Deferred.await))
    const busy = VirtualTime.make({ maxStepsAtOnce: 1000 }).run(Effect.forever(Effect.yieldNow))

    assert.deepStrictEqual([waiting._tag, busy._tag], ["Deadlock", "Livelock"])
  })

  it("gives what a program comes to, and throws what it does not", () => {
    const time = () => VirtualTime.make({ maxStepsAtOnce: 1000 })
    const waited = Effect.sleep("2 seconds")

    assert.strictEqual(time().runSync(Effect.as(waited, "done")), "done")
    assert.throws(() => time().runSync(Effect.andThen(waited, Effect.fail(new Error("it broke")))), "it broke")
    assert.throws(() => time().runSync(Effect.die(new Error("a defect"))), "a defect")
    assert.throws(() => time().runSync(Effect.andThen(waited, Effect.never)), "a deadlock at 2000 ms")
    assert.throws(() => time().runSync(Effect.promise(() => Promise.resolve(1))), "A promise")
    assert.throws(() => time().runSync(Effect.forever(Effect.yieldNow)), "a livelock at 0 ms")
  })

  it("refuses options that mean nothing", () => {
    assert.throws(() => VirtualTime.make({ seed: NaN }), "seed must be an integer, got NaN")
    assert.throws(() => VirtualTime.make({ wall: Infinity }), "wall must be a finite number")
    assert.throws(() => VirtualTime.make({ maxStepsAtOnce: -1 }), "maxStepsAtOnce must be at least 1, got -1")
    assert.throws(() => VirtualTime.make({ preemption: 1 }), "preemption must be in [0, 1), got 1")
  })

  it("kills a process: none of its fibers goes on, no finalizer runs, and nobody can wake it", () => {
    const time = VirtualTime.make()
    const seen: Array<string> = []
    const note = (name: string) => Effect.sync(() => void seen.push(`${name} ${time.now()}`))
    const signal = Deferred.makeUnsafe<void>()
    const ending = time.run(
      Effect.gen(function* () {
        const { at, fork, kill } = time.process()
        fork(Effect.forever(Effect.andThen(note("beat"), Effect.sleep(100))))
        const waits = fork(Effect.ensuring(Effect.andThen(Deferred.await(signal), note("woken")), note("cleanup")))
        at(500, () => void seen.push("alarm"))
        yield* Effect.sleep(150)
        kill()
        waits.interruptUnsafe()
        Deferred.doneUnsafe(signal, Exit.void)
        fork(note("late"))
        yield* Effect.sleep(1000)
        yield* note("survivor")
      })
    )

    assert.strictEqual(ending._tag, "Ended")
    assert.deepStrictEqual(seen, ["beat 0", "beat 100", "survivor 1150"])
  })

  const order = (seed: number, options?: VirtualTime.Options): string => {
    const time = VirtualTime.make({ seed, ...options })
    const names: Array<string> = []
    const walk = (name: string) =>
      Effect.gen(function* () {
        yield* Effect.sleep(10)
        names.push(name)
        yield* Effect.yieldNow
        names.push(name.toUpperCase())
      })
    time.run(Effect.forEach(["a", "b", "c", "d"], walk, { concurrency: "unbounded" }))
    return names.join("")
  }

  it("orders what happens at the same moment by its seed", () => {
    const seeds = Array.from({ length: 20 }, (_, seed) => seed)

    assert.isAbove(new Set(seeds.map((seed) => order(seed, { order: "random" }))).size, 10)
    assert.isAbove(new Set(seeds.map((seed) => order(seed))).size, 5)
    for (const seed of seeds) assert.strictEqual(order(seed, { order: "random" }), order(seed, { order: "random" }))
  })

  it("makes a fiber give way anywhere when it is told to", () => {
    const interleaved = (preemption: number): boolean => {
      const time = VirtualTime.make({ seed: 3, preemption })
      let inside = 0
      let met = false
      const count = Effect.gen(function* () {
        for (let step = 0; step < 50; step++) {
          inside++
          yield* Effect.suspend(() => Effect.sync(() => step))
          met ||= inside > 1
          inside--
        }
      })
      time.run(Effect.all([count, count], { concurrency: "unbounded" }))
      return met
    }

    assert.isFalse(interleaved(0))
    assert.isTrue(interleaved(0.2))
  })

  it("draws the random numbers of the program from its seed", () => {
    const numbers = (seed: number) => VirtualTime.make({ seed }).run(Effect.all([Random.next, Random.next]))

    assert.deepStrictEqual(numbers(1), numbers(1))
    assert.notDeepEqual(numbers(1), numbers(2))
  })
})
