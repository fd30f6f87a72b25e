// Runs the simulator from the command line.
//
//   npm run simulate                              1000 seeds, from 0
//   npm run simulate -- --seeds 5000 --from 100   others
//   npm run simulate -- --seed 42                 one of them, with all that happened in it
import { parseArgs } from "node:util"
import { Simulation } from "@llm-resilience/testing"

const { values } = parseArgs({
  options: { seed: { type: "string" }, seeds: { type: "string" }, from: { type: "string" } }
})

const one = (seed: number): Simulation.Run => {
  const run = Simulation.run(seed, { keptEvents: 1_000_000 })
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
    onRun: ({ counts }) => {
      for (const [name, count] of Object.entries(counts)) sums.set(name, (sums.get(name) ?? 0) + count)
      // A run that was stopped goes on from here.
      if (++done % 1000 === 0) console.log(`nothing yet in ${done} seeds; the next is --from ${from + done}`)
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

const failed =
  values.seed === undefined ? many(Number(values.from ?? 0), Number(values.seeds ?? 1000)) : one(Number(values.seed))
if (failed?.violation !== undefined) {
  console.log(`\n${Simulation.format(failed, Simulation.shrink(failed))}`)
  process.exitCode = 1
}
