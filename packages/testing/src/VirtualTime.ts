/**
 * An event loop of its own: a `Clock`, a `Scheduler` and a `Random` that together run a program in virtual time, from one seed.
 *
 * Nothing waits: when no fiber can go on, the time jumps to the next timer. The whole run is one synchronous call, ten times as fast as
 * `TestClock`, and it knows when nothing can ever happen again (a deadlock) and when something happens for ever without time passing (a
 * livelock). Events at the same moment are ordered by the seed, and so, on request, are the fibers that are ready to run; a fiber may even
 * be made to give way between any two of its steps. The same seed gives the same run, in every process.
 *
 * It runs what takes its time from Effect. A promise that is really waited for, a socket or a `setTimeout`, never comes: that is a deadlock.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Random from "effect/Random"
import * as Scheduler from "effect/Scheduler"
import { dice } from "./internal/dice.ts"
import * as Timers from "./internal/timers.ts"

/**
 * A virtual time. Build it with {@link make}.
 *
 * **Details**
 *
 * - `context` holds the clock, the scheduler and the source of random numbers. `fork` runs an effect with them.
 * - `now` is the monotonic time in milliseconds, 0 at the start. `at` calls a function when it is that late, and returns how to prevent it.
 * - `process` starts a process that can be killed, on the same clocks.
 * - `stepWall` sets the wall clock forward or back; monotonic time does not notice.
 * - `run` goes on until the program has ended, and says what became of it. `runSync` gives its value, and throws what else it comes to: what a test
 *   wants.
 *
 * @category models
 * @since 0.1.0
 */
export interface VirtualTime extends Omit<Process, "kill"> {
  readonly now: () => number
  readonly process: () => Process
  readonly stepWall: (millis: number) => void
  readonly run: <A, E>(program: Effect.Effect<A, E>) => Ending<A, E>
  readonly runSync: <A, E>(program: Effect.Effect<A, E>) => A
}

/**
 * Fibers that can be killed together.
 *
 * **Details**
 *
 * `kill` is what SIGKILL is: from then on no fiber of the process makes another step, whatever it waits for, whoever interrupts it, and no finalizer
 * runs. Nor does what it wanted to do `at` some time. What others share with it stays as it is.
 *
 * @category models
 * @since 0.1.0
 */
export interface Process {
  readonly context: Context.Context<never>
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => ReturnType<typeof Effect.runFork<A, E>>
  readonly at: (millis: number, action: () => void) => () => void
  readonly kill: () => void
}

/**
 * What became of a program.
 *
 * **Details**
 *
 * `Deadlock`: it waits for something that never happens. `Livelock`: it is busy for ever without time passing. `steps` counts the pieces
 * of work and the timers of the run.
 *
 * @category models
 * @since 0.1.0
 */
export type Ending<A, E> =
  | { readonly _tag: "Ended"; readonly exit: Exit.Exit<A, E>; readonly at: number; readonly steps: number }
  | { readonly _tag: "Deadlock"; readonly at: number; readonly steps: number }
  | { readonly _tag: "Livelock"; readonly at: number; readonly steps: number }

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `seed`: what everything random is drawn from, 0 by default.
 * - `order`: fibers that are ready at the same time run in the order in which they became so (`fifo`, the default), or in any (`random`).
 * - `preemption`: how often a fiber gives way between two of its steps, as a probability; 0 by default.
 * - `wall`: what the wall clock says at the start, in milliseconds since 1970; 2026-01-01 by default.
 * - `maxStepsAtOnce`: more pieces of work than this without time passing are a livelock, 100 000 by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly seed?: number | undefined
  readonly order?: "fifo" | "random" | undefined
  readonly preemption?: number | undefined
  readonly wall?: number | undefined
  readonly maxStepsAtOnce?: number | undefined
}

/**
 * Creates a virtual time.
 *
 * **Example** (An hour in no time)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { VirtualTime } from "@llm-resilience/testing"
 *
 * const time = VirtualTime.make({ seed: 1 })
 * const ending = time.run(Effect.as(Effect.sleep("1 hour"), "done"))
 *
 * ending._tag // => "Ended"
 * ending.at // => 3_600_000
 * ```
 *
 * **Example** (Waiting for what never comes)
 *
 * ```ts import.meta.vitest
 * import { Deferred, Effect } from "effect"
 * import { VirtualTime } from "@llm-resilience/testing"
 *
 * const ending = VirtualTime.make().run(Effect.flatMap(Deferred.make<void>(), Deferred.await))
 *
 * ending._tag // => "Deadlock"
 * ```
 *
 * **Example** (In a test)
 *
 * ```ts import.meta.vitest
 * import { Clock, Effect } from "effect"
 * import { VirtualTime } from "@llm-resilience/testing"
 *
 * VirtualTime.make({ wall: 0 }).runSync(Effect.andThen(Effect.sleep("1 hour"), Clock.currentTimeMillis)) // => 3_600_000
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): VirtualTime => {
  const seed = options?.seed ?? 0
  if (!Number.isSafeInteger(seed)) throw new RangeError(`VirtualTime.make: seed must be an integer, got ${seed}`)
  const atOnce = options?.maxStepsAtOnce ?? 100_000
  if (!(atOnce >= 1)) throw new RangeError(`VirtualTime.make: maxStepsAtOnce must be at least 1, got ${atOnce}`)
  const preemption = options?.preemption ?? 0
  if (!(preemption >= 0 && preemption < 1)) {
    throw new RangeError(`VirtualTime.make: preemption must be in [0, 1), got ${preemption}`)
  }
  const ordering = dice(seed, 1)
  const yielding = dice(seed, 2)
  const numbers = dice(seed, 3)
  const ties = dice(seed, 4)
  const timers = Timers.make(() => ties.next())
  const ready = options?.order === "random" ? anyOrder((low, high) => ordering.int(low, high)) : inOrder()
  let now = 0
  let nanos = 0n
  let wall = options?.wall ?? 1_767_225_600_000
  if (!Number.isFinite(wall)) throw new RangeError(`VirtualTime.make: wall must be a finite number, got ${wall}`)

  const at = (millis: number, action: () => void): (() => void) => {
    const timer = timers.add(Math.max(now, millis), action)
    return () => timers.cancel(timer)
  }

  const wallMillis = (): number => wall + now
  const clock = (): Clock.Clock => ({
    currentTimeMillisUnsafe: wallMillis,
    currentTimeMillis: Effect.sync(wallMillis),
    currentTimeNanosUnsafe: () => BigInt(Math.round(wallMillis() * 1_000_000)),
    currentTimeNanos: Effect.sync(() => BigInt(Math.round(wallMillis() * 1_000_000))),
    monotonicTimeNanosUnsafe: () => nanos,
    monotonicTimeNanos: Effect.sync(() => nanos),
    sleep: (duration) => {
      const millis = Duration.toMillis(duration)
      if (millis <= 0) return Effect.yieldNow
      if (millis === Infinity) return Effect.never
      return Effect.callback((resume) => {
        const timer = timers.add(now + millis, () => resume(Effect.void))
        return Effect.sync(() => timers.cancel(timer))
      })
    }
  })

  let patience = preemption === 0 ? Infinity : yielding.exponential(1 / preemption)
  const scheduler: Scheduler.Scheduler = {
    executionMode: "async",
    // Without preemption a fiber runs until it waits, so that what is not interrupted by time is one step for all others.
    shouldYield: (fiber) => {
      if (patience === Infinity) return fiber.currentOpCount >= atOnce
      if (--patience > 0) return false
      patience = yielding.exponential(1 / preemption)
      return true
    },
    makeDispatcher: () => ({ scheduleTask: ready.add, flush: () => {} })
  }

  const context = Context.make(Clock.Clock, clock()).pipe(
    Context.add(Scheduler.Scheduler, scheduler),
    Context.add(Random.Random, {
      nextIntUnsafe: () => numbers.int(Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
      nextDoubleUnsafe: () => numbers.next()
    })
  )
  const fork = Effect.runForkWith(context)

  const run: VirtualTime["run"] = (program) => {
    const fiber = fork(program)
    let steps = 0
    let since = 0
    for (let exit = fiber.pollUnsafe(); ; exit = fiber.pollUnsafe()) {
      if (exit !== undefined) return { _tag: "Ended", exit, at: now, steps }
      const task = ready.take()
      if (task !== undefined) {
        steps++
        if (++since > atOnce) return { _tag: "Livelock", at: now, steps }
        task()
        continue
      }
      const timer = timers.next()
      if (timer === undefined) return { _tag: "Deadlock", at: now, steps }
      if (timer.at > now) {
        nanos = BigInt(Math.round(timer.at * 1_000_000))
        now = Number(nanos) / 1_000_000
        since = 0
      } else if (++since > atOnce) return { _tag: "Livelock", at: now, steps }
      steps++
      timer.action()
    }
  }

  const process = (): Process => {
    let alive = true
    const own = context.pipe(
      // What is kept for each clock, as one sleeper for many, dies with the process.
      Context.add(Clock.Clock, clock()),
      Context.add(Scheduler.Scheduler, {
        executionMode: "async",
        // Asked before each step, so the dead come no further than to give way, and what they gave way for never comes.
        shouldYield: (fiber) => !alive || scheduler.shouldYield(fiber),
        makeDispatcher: () => ({
          scheduleTask: (task) =>
            ready.add(() => {
              if (alive) task()
            }),
          flush: () => {}
        })
      })
    )
    const fork = Effect.runForkWith(own)
    return {
      context: own,
      fork: (effect) => fork(effect),
      at: (millis, action) =>
        at(millis, () => {
          if (alive) action()
        }),
      kill: () => {
        alive = false
      }
    }
  }

  return {
    context,
    fork: (effect) => fork(effect),
    now: () => now,
    at,
    process,
    stepWall: (millis) => {
      wall += millis
    },
    run,
    runSync: (program) => {
      const ending = run(program)
      if (ending._tag === "Ended") {
        if (Exit.isSuccess(ending.exit)) return ending.exit.value
        throw Cause.squash(ending.exit.cause)
      }
      throw new Error(
        ending._tag === "Deadlock"
          ? `VirtualTime: a deadlock at ${ending.at} ms: everybody waits for what never comes. A promise, a socket or a timer of the host never does.`
          : `VirtualTime: a livelock at ${ending.at} ms: ${ending.steps} steps, and no end.`
      )
    }
  }
}

interface Ready {
  readonly add: (task: () => void) => void
  readonly take: () => (() => void) | undefined
}

const inOrder = (): Ready => {
  let tasks: Array<() => void> = []
  let taken = 0
  return {
    add: (task) => void tasks.push(task),
    take: () => {
      if (taken === tasks.length) {
        if (taken > 0) {
          tasks = []
          taken = 0
        }
        return undefined
      }
      return tasks[taken++]
    }
  }
}

const anyOrder = (int: (low: number, high: number) => number): Ready => {
  const tasks: Array<() => void> = []
  return {
    add: (task) => void tasks.push(task),
    take: () => {
      const last = tasks.pop()
      if (last === undefined || tasks.length === 0) return last
      const index = int(0, tasks.length)
      const chosen = tasks[index]
      if (chosen === undefined) return last
      tasks[index] = last
      return chosen
    }
  }
}
