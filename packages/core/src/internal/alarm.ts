import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"
import * as Line from "./line.ts"
import { monotonic } from "./monotonic.ts"

/**
 * Calls functions when their time has come: one sleeping fiber for all calls on a clock, instead of a timer for each of them, which nearly
 * always is started to be stopped and costs more than everything else about a call that is answered.
 */
export interface Alarm {
  /** Calls `ring` at a monotonic millisecond, unless the returned function is called before. `ring` must not throw. */
  readonly at: (due: number, ring: () => void) => () => void
  /** The same after so many milliseconds. */
  readonly after: (millis: number, ring: () => void) => () => void
}

interface Bell {
  readonly due: number
  readonly ring: () => void
}

// The next call probably comes soon, so the sleeper stays for a moment when nobody needs it; longer would keep a process that is done alive.
const linger = 250

// From so many bells on, all of them are looked at once in as many milliseconds as there are thousands.
const crowd = 1000

// Less than a microsecond cannot be slept.
const tolerance = 0.001

const alarms = new WeakMap<Clock.Clock, Alarm>()

/** The alarm of the clock that a fiber runs on. */
export const alarmOf = (fiber: Fiber.Fiber<unknown, unknown>): Alarm => {
  const clock = fiber.getRef(Clock.Clock)
  const known = alarms.get(clock)
  if (known !== undefined) return known
  // Nothing else of the first caller's context should live as long as its clock.
  const context = Context.make(Clock.Clock, clock).pipe(
    Context.add(Scheduler.Scheduler, fiber.getRef(Scheduler.Scheduler))
  )
  const alarm = make(clock, Effect.runForkWith(context))
  alarms.set(clock, alarm)
  return alarm
}

const make = (clock: Clock.Clock, fork: ReturnType<typeof Effect.runForkWith<never>>): Alarm => {
  const bells = Line.make<Bell>()
  let sleeper: Fiber.Fiber<void> | undefined
  let wakesAt = Infinity
  // Whether it sleeps longer than it lingers, so that who needs it no more has to look at the clock.
  let sleepsLong = false

  const sleepUntil = (due: number, now: number): void => {
    const before = sleeper
    sleeper = undefined
    before?.interruptUnsafe()
    wakesAt = due
    sleepsLong = due - now > linger
    const fiber = fork(clock.sleep(Duration.millis(Math.max(0, due - now))))
    sleeper = fiber
    fiber.addObserver(() => {
      if (sleeper === fiber) wake()
    })
  }

  const wake = (): void => {
    sleeper = undefined
    const now = monotonic(clock)
    // Whoever is rung may set a bell of its own, which goes to sleep with the others.
    wakesAt = -Infinity
    for (const place of bells.places()) {
      if (place.value.due - now > tolerance) continue
      bells.remove(place)
      place.value.ring()
    }
    wakesAt = Infinity
    for (const { value } of bells.places()) wakesAt = Math.min(wakesAt, value.due)
    // Every waking looks at all bells. Where thousands of calls hang, and time out one after the other, they ring in groups, a little late.
    const size = bells.size()
    if (size > 0) sleepUntil(size < crowd ? wakesAt : Math.max(wakesAt, now + size / crowd), now)
  }

  const at: Alarm["at"] = (due, ring) => {
    const place = bells.add({ due, ring })
    if (due < wakesAt) {
      const now = monotonic(clock)
      sleepUntil(sleeper === undefined ? Math.min(due, now + linger) : due, now)
    }
    return () => {
      if (!bells.remove(place) || bells.size() > 0 || sleeper === undefined || !sleepsLong) return
      const now = monotonic(clock)
      if (wakesAt - now > linger) sleepUntil(now + linger, now)
    }
  }

  return { at, after: (millis, ring) => at(monotonic(clock) + Math.max(0, millis), ring) }
}
