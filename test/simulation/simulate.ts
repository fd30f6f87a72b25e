// Runs the simulator from the command line.
//
//   npm run simulate                              1000 seeds, from 0
//   npm run simulate -- --seeds 5000 --from 100   others
//   npm run simulate -- --seed 42                 one of them, with all that happened in it
//   npm run simulate -- --seeds 20 --happy        whole answers and no trouble, to see what the simulator itself costs
import { parseArgs } from "node:util"
import { Simulation } from "@llm-resilience/testing"
import { happy } from "./happy.ts"

const refuse = (why: string): never => {
  console.error(`simulate: ${why}`)
  process.exit(2)
}

const options = {
  seed: { type: "string" },
  seeds: { type: "string" },
  from: { type: "string" },
  happy: { type: "boolean", default: false }
} as const

const read = () => {
  try {
    return parseArgs({ options }).values
  } catch (error) {
    const [why] = (error as Error).message.split(/\. |\n/)
    const known = Object.keys(options).map((name) => `--${name}`)
    return refuse(`${why}; known are ${known.join(", ")}`)
  }
}
const values = read()

const whole = (name: "seed" | "seeds" | "from", least: number): number | undefined => {
  const text = values[name]
  if (text === undefined) return undefined
  const value = Number(text)
  if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= least) return value
  return refuse(`--${name} must be a whole number >= ${least}, got "${text}"`)
}
const [seed, seeds, from] = [whole("seed", 0), whole("seeds", 1), whole("from", 0)]
if (seed !== undefined && (seeds ?? from) !== undefined) {
  refuse("--seed is one seed; it goes with neither --seeds nor --from")
}

const one = (seed: number): Simulation.Run => {
  const run = Simulation.run(values.happy ? happy(Simulation.plan(seed)) : seed, { keptEvents: 1_000_000 })
  console.log(run.lastEvents.join("\n"))
  console.log(`\nseed ${seed}: ${run.requests} requests, fingerprint ${run.fingerprint}`)
  return run
}

const many = (from: number, seeds: number): Simulation.Run | undefined => {
  const cpu = process.cpuUsage()
  const sums = new Map<string, number>()
  let done = 0
  const { failed, requests } = Simulation.explore({
    from,
    seeds,
    ...(values.happy ? { change: happy } : {}),
    onRun: ({ counts, violation }) => {
      for (const [name, count] of Object.entries(counts)) sums.set(name, (sums.get(name) ?? 0) + count)
      // A run that was stopped goes on from here.
      if (++done % 100 === 0 && violation === undefined)
        console.log(`nothing yet in ${done} seeds; the next is --from ${from + done}`)
    }
  })
  const { system, user } = process.cpuUsage(cpu)
  const seconds = (user + system) / 1_000_000
  console.log(
    `${done} seeds from ${from}, ${requests} requests, ${Math.round(requests / seconds)} a second of processor time`
  )
  console.log([...sums].map(([name, count]) => `${name} ${count}`).join(", "))
  return failed
}

const failed = seed === undefined ? many(from ?? 0, seeds ?? 1000) : one(seed)
if (failed?.violation !== undefined) {
  console.log(`\n${Simulation.format(failed, Simulation.shrink(failed))}`)
  process.exitCode = 1
}
