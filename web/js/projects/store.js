// The projects there are, for whoever shows a name or a choice of them.

import { get } from "../api.js";

const PAGE = 100;

export class Projects {
  list = [];

  async load() {
    const { projects } = await get(`/api/projects?limit=${PAGE}`);
    this.list = projects;
    dispatchEvent(new Event("projects"));
  }

  name(projectId) {
    return this.list.find((project) => project.projectId === projectId)?.name;
  }
}
