import * as Effect from "effect/Effect"
import { alarmOf } from "./alarm.ts"

/** What wakes somebody who looks again and again: one listener, who is told at once, or when it listens next. */
export interface Bell {
  readonly ring: () => void
  /** Waits for the bell, so many milliseconds at most. */
  readonly heard: (millis: number) => Effect.Effect<void>
}

/** A bell that has not been rung. */
export const make = (): Bell => {
  let rung = false
  let wake: (() => void) | undefined
  return {
    ring: () => {
      rung = true
      wake?.()
    },
    heard: (millis) =>
      Effect.withFiber((fiber) =>
        Effect.callback((resume) => {
          let stop = (): void => {}
          const done = (): void => {
            stop()
            wake = undefined
            rung = false
          }
          const go = (): void => {
            done()
            // Whoever rings goes on first.
            resume(Effect.yieldNow)
          }
          if (rung) return go()
          wake = go
          stop = alarmOf(fiber).after(millis, go)
          return Effect.sync(done)
        })
      )
  }
}
