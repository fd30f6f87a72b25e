import * as Effect from "effect/Effect"
import type { Process, VirtualTime } from "../../VirtualTime.ts"
import type { Dice } from "../dice.ts"

/** A process of the application, while it runs. */
export interface Place extends Pick<Process, "at" | "fork"> {
  isKilled: boolean
}

/** What becomes of a command: it is refused, or lost, or done, and then its answer may be an error, or lost, or late. */
export type Fate = "well" | "refused" | "lost" | "broken" | "unanswered" | "late"

/**
 * Sends commands of one process to a service elsewhere. Each takes its time, there and back, and what was sent is carried out in one step whatever
 * becomes of who sent it. A service that is here does it at once.
 */
export interface Remote {
  readonly carry: <A, E>(command: Effect.Effect<A, E>, fate: Fate, failure: () => E) => Effect.Effect<A, E>
}

/** Longer than anybody waits for an answer. */
export const late = 1000

export const make = (time: VirtualTime, place: Place, d: Dice, travel: number): Remote => ({
  carry: (command, fate, failure) =>
    travel === 0 && fate === "well"
      ? command
      : Effect.callback((resume) => {
          const there = d.between(0, travel)
          const back = d.between(0, travel) + (fate === "late" ? late : 0)
          time.at(time.now() + there, () => {
            if (fate === "lost") return
            const done = fate === "refused" ? undefined : Effect.runSyncExitWith(time.context)(command)
            const answer = done === undefined || fate === "broken" ? Effect.fail(failure()) : done
            if (fate !== "unanswered") place.at(time.now() + back, () => resume(answer))
          })
        })
})
